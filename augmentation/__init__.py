"""What makes the second views: prompts, recipes, AudioLDM from the real clip, and the audit of what came out."""
