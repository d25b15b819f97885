"""Pictures, crops of them, and the low-resolution images made from the crops."""
