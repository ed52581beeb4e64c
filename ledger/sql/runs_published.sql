SELECT count(*) AS runs FROM runs WHERE NOT removed
