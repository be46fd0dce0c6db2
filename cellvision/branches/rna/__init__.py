"""Counts of RNA, a row a cell."""
