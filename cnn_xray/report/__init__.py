"""From notebooks to a report that opens offline."""
