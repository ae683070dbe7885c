"""What the root stands on: files, digests of code, the code as it is loaded, progress bars."""
