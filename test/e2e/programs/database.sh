#!/bin/bash
# PostgreSQL with three open sessions. One is in a transaction all the time, with a lock, a temporary table, prepared
# statements and a cursor over a sort that lies on disk; one tries to take that lock at every step, in vain; one waits for it until
# the end. The result depends on the number of steps alone.
set -euo pipefail
. /programs/steps.sh

PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PGHOST=/data PGDATA=/data/db PGUSER=nobody PGDATABASE=postgres
initdb --username nobody --auth peer --no-sync --locale C --encoding UTF8 >/dev/null
postgres -c listen_addresses= -c unix_socket_directories=/data -c shared_buffers=16MB -c work_mem=64kB \
	-c autovacuum_naptime=1 -c log_min_messages=fatal >/data/server.log 2>&1 &
server=$!
until pg_isready --quiet; do
	kill -0 $server
	sleep 0.1
done

# session NAME starts a client that reads NAME.in and writes NAME.out.
session() {
	mkfifo "/tmp/$1.in" "/tmp/$1.out"
	psql --no-psqlrc --quiet --no-align --tuples-only --variable ON_ERROR_STOP=1 <"/tmp/$1.in" >"/tmp/$1.out" &
}
session worker
exec {worker_in}>/tmp/worker.in {worker_out}</tmp/worker.out
session rival
exec {rival_in}>/tmp/rival.in {rival_out}</tmp/rival.out

# ask IN OUT SQL hands a session SQL that has one line of answer, and prints it.
ask() {
	echo "$3" >&"$1"
	local answer
	read -r answer <&"$2"
	echo "$answer"
}
worker() { ask "$worker_in" "$worker_out" "$1"; }
rival() { ask "$rival_in" "$rival_out" "$1"; }

worker "
	create table ledger (n int primary key, entry text);
	create table many as select i, md5(i::text) as key from generate_series(1, 50000) i;
	begin;
	create temp table scratch (n int, sum numeric);
	prepare enter (int) as insert into ledger select n, key from (select i as n, key from many) m where n = \$1 returning entry;
	prepare carry (int) as insert into scratch select \$1, \$1 + coalesce(sum(sum), 0) % 1000003 from scratch returning sum;
	declare sorted cursor for select key from many order by key;
	select 'locked ' || pg_advisory_xact_lock(4711)::text;" >/data/output
# The waiter's own commit shows the worker's: both are in one result.
psql --no-psqlrc --quiet --no-align --tuples-only --command 'select pg_advisory_lock(4711)' \
	--command "select 'waiter sees ' || count(*) from ledger" >/tmp/waiter &
waiter=$!

first=$(worker "select pg_backend_pid() || ' ' || pg_current_xact_id();")
for ((n = 1; n <= STEPS; n++)); do
	{
		worker "execute enter($n);"
		worker "execute carry($n);"
		worker "fetch forward 1 from sorted;"
		rival "select pg_try_advisory_lock(4711);"
	} >>/data/output
	step "$n"
done
[ "$first" = "$(worker "select pg_backend_pid() || ' ' || pg_current_xact_id();")" ]
rival "select 'before the commit ' || count(*) from ledger;" >>/data/output
worker "commit; select md5(string_agg(n || entry, ',' order by n)) from ledger;" >>/data/output
worker "select sum(sum) from scratch;" >>/data/output
wait $waiter
cat /tmp/waiter >>/data/output
exec {worker_in}>&- {rival_in}>&-
kill -INT $server # a fast shutdown, which fails where a client is still there
wait $server
pg_controldata | grep 'cluster state' >>/data/output
finish </data/output
