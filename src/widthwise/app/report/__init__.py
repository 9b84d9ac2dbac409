"""The report: a frontier's JSON in, tables, a picture and a page out; nothing here needs torch."""
