"""Sources of training pairs and their way to padded batches."""
