package fastpath

//go:generate sh generate.sh
