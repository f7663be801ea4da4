"""`polypforge downstream`: does it help? A plan of trainings with and without synthetic cases, cell by cell."""
