"""What a box says about itself: a command and a pure process(). A fact never decides."""
