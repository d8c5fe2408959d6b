"""What every experiment shares: configurations, run folders, records, claims, the style of figures, reports."""
