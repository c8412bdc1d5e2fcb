"""The report: one HTML file that holds everything it shows and asks nobody for anything."""
