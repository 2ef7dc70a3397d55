"""Parts of the MONAI Label app: inference tasks, active learning, fine-tuning and request checks."""
