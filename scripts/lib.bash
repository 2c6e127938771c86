# What scripts/run and scripts/test share. Sourced, never run.

# need_root WHAT: Portolan needs root today.
need_root() {
	[[ $(uname -s) == Linux ]] || { echo "Portolan's hosts are Linux today, and this is $(uname -s)." >&2; exit 1; }
	((EUID == 0)) || { echo "$1 needs root today: sudo make $1" >&2; exit 1; }
}

# need_go: the Go toolchain comes from the user, not from Debian 12, whose Go is too old.
need_go() {
	command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || { echo 'Go is not on PATH: install it from https://go.dev/dl/ and try again.' >&2; exit 1; }
}

# step TITLE COMMAND...: runs a command that may take minutes and talks too much. Shows title and time, on a terminal
# also the last line of its output; all of the output's end when it fails.
step() {
	local title=$1 log pid start=$SECONDS status=0 shown=0
	shift
	log=$(mktemp)
	printf '%s ...' "$title"
	"$@" >"$log" 2>&1 &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if [[ -t 1 ]]; then
			printf '\r\e[K%s ... %d s  %.60s' "$title" $((SECONDS - start)) "$(tail -n 1 "$log" | tr -d '\r')"
		elif ((SECONDS - start >= shown + 30)); then
			shown=$((SECONDS - start))
			printf ' %d s ...' "$shown"
		fi
	done
	wait "$pid" || status=$?
	[[ -t 1 ]] && printf '\r\e[K%s ...' "$title"
	if ((status == 0)); then
		printf ' done in %d s\n' $((SECONDS - start))
	else
		printf ' exit status %d\n' "$status"
		tail -n 40 "$log" >&2
	fi
	rm -f "$log"
	return "$status"
}
