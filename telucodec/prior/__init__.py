"""How likely each code is, given codes already decoded: integer tables, their fitting, the coder on top."""
