"""Records: files on the control machine. Model lock, plan file, bench ledger and audit report, each with its schema."""
