"""Does it help? Measures of images and masks, and networks trained with and without synthetic cases."""
