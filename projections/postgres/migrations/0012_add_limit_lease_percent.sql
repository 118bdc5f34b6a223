-- How much of a leased limit's burst proxies may hold unspent, in percent; 0: the limit is strict.

ALTER TABLE control.limits ADD COLUMN lease_percent integer NOT NULL DEFAULT 0;
UPDATE control.limits SET lease_percent = 5 WHERE mode = 'leased';
