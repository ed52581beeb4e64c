-- A cheap sign of whether there are other overruns than a moment ago.
SELECT count(*) AS calls, coalesce(sum(cost_nanos - hold_nanos), 0)::text AS nanos
  FROM events
 WHERE hold_nanos > 0 AND cost_nanos > hold_nanos AND occurred_at >= %(since)s
