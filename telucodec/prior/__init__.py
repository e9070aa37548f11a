"""How likely each code is, given codes already decoded: integer tables, their fitting, and the coder on top."""
