"""A reproducible report of ten small networks on MNIST: the library that its notebooks share."""
