"""What compiles the book, and the pages that only the book has."""
