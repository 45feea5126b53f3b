"""The report: reads run directories only."""
