"""The network of eight weights: computed, drawn, and as a workbook of live formulas."""
