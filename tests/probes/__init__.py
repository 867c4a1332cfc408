"""Small analyses that exist only to prove the contract: a large table, two models, and a trainer."""
