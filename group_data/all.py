"""What holds for every box: the llama.cpp commit that group files build unless they name another one.

Upgrading all boxes is one line here. The old release stays beside the new one until it is pruned.
"""

llama_cpp_commit = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
