// Package explore tries the accounting protocol in every order of its events: grants, openings, ends, closings, rounds and installs, with lost and late
// calls, crashes, wipes and failovers between them. What decides is the code that runs in production; only the world around it is modelled. It is separate
// because it joins what production never joins in one process, and it holds nothing but tests.
package explore
