"""The paper's tables and figures as studies in YAML: curation, training and evaluation of real checkpoints."""
