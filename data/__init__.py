"""Rows in: reading, checking, encoding and ordering data; knows no model."""
