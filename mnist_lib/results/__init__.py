"""What a page shows of runs: tables, figures, sentences, drawings of networks, statistics."""
