"""Image metrics, one a file, and the conventions that papers print them in."""
