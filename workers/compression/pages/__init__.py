"""The report for people: one page that stands alone, and a model card."""
