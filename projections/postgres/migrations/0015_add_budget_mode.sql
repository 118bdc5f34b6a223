-- Whether proxies may reserve of a budget in advance, and how much of its limit all of them together may hold that way, in percent; 0: the budget is strict.

ALTER TABLE control.budgets
    ADD COLUMN mode text NOT NULL DEFAULT 'strict',
    ADD COLUMN lease_percent integer NOT NULL DEFAULT 0;
