SELECT count(*) AS letters FROM dead_letters
