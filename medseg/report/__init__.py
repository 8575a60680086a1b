"""Case results and run folders -> tables and figures."""
