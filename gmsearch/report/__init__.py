"""What a run found, spent and did, as a page, pictures and tables: `gmsearch report`."""
