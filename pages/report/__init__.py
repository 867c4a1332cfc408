"""The compression report page in its parts: what is asked, how far it is, what is known, the way out."""
