"""Data of every box: the llama.cpp commit that the group files build.

To upgrade all boxes, change this line. The old release stays beside the new one until it is pruned.
"""

llama_cpp_commit = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
