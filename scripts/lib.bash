# What scripts/run and scripts/test share. Sourced, never run.

# need_linux: where Portolan runs today.
need_linux() {
	[[ $(uname -s) == Linux ]] || { echo "Portolan's hosts are Linux today, and this is $(uname -s)." >&2; exit 1; }
}

# need_root WHAT: what makes network namespaces for itself.
need_root() {
	need_linux
	((EUID == 0)) || { echo "$1 needs root: sudo make $1" >&2; exit 1; }
}

# need_go: the Go toolchain comes from the user, not from Debian 12, whose Go is too old.
need_go() {
	command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || { echo 'Go is not on PATH: install it from https://go.dev/dl/ and try again.' >&2; exit 1; }
}

# doing LOG: what make and go are at, in a word: the end of the package's path in the last command that make printed.
doing() {
	local last
	last=$(tail -n 1 "$1")
	case $last in
	'go: downloading '*) echo 'downloading modules' ;;
	*) last=${last##*/}; echo "${last:0:40}" ;;
	esac
}

# step TITLE COMMAND...: runs a command that may take minutes and talks too much. Shows the title, the time, and on a
# terminal what it is at. When it fails, shows the end of its output.
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
			printf '\r\e[K%s ... %d s  %s' "$title" $((SECONDS - start)) "$(doing "$log")"
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
