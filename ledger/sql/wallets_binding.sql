-- Wallets that may pay for calls with these labels, by the first label that each asks for.
SELECT b.document || jsonb_build_object('budget_id', b.budget_id, 'name', b.name, 'counts_from', b.counts_from,
                                        'version', b.version) AS document
  FROM wallets AS w
  JOIN budgets AS b ON b.budget_id = 'wallet-' || w.wallet_id
 WHERE (coalesce(w.selector -> 0 ->> 0, ''), coalesce(w.selector -> 0 ->> 1, ''))
       IN (SELECT * FROM unnest(%(names)s::text[], %(values)s::text[]))
