"""The verbs of ``python -m monai_pdddpm``; each module is imported when its verb is called."""
