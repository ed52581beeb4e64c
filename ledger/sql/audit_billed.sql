-- Teams that the journal charges another amount than the events say they pay; '' stands for nobody there too.
WITH charged AS (
    SELECT substr(account, strpos(account, ':') + 1) AS team, sum(amount_nanos) AS nanos
      FROM journal
     WHERE kind = 'usage' AND account LIKE ANY (ARRAY['expense:%%', 'overrun:%%'])
     GROUP BY 1
), due AS (
    SELECT coalesce(nullif(billed_team, ''), %(nobody)s) AS team, sum(share_nanos) AS nanos
      FROM events
     CROSS JOIN LATERAL billed(billing, team, root_team, cost_nanos, root_share(billing, root_team, cost_nanos))
     WHERE cost_nanos IS NOT NULL
     GROUP BY 1
)
SELECT team, coalesce(due.nanos, 0)::text AS due, coalesce(charged.nanos, 0)::text AS charged
  FROM due FULL JOIN charged USING (team)
 WHERE coalesce(due.nanos, 0) <> coalesce(charged.nanos, 0)
 ORDER BY team
 LIMIT %(most)s
