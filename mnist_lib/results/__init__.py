"""Which runs a page asks for, and what it shows of them: tables, figures, sentences, drawings, statistics."""
