SELECT producer, contiguous, highest FROM producers ORDER BY producer
