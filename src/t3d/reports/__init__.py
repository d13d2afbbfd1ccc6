"""Reports: what run folders say, as numbers and as one page. Reads run folders only; knows nothing of training."""
