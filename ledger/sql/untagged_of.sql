-- All spending since a moment, which untagged spending is a part of.
SELECT coalesce(sum(cost_nanos), 0)::bigint AS cost_nanos FROM rollups WHERE hour >= %(since)s
