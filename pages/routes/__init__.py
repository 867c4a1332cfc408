"""Routes beside the pages, for what a page cannot do: stream a large file to disk."""
