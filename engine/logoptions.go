package engine

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/docker/go-units"

	"github.com/vethloom/vethloom/engine/shim"
)

// The bounds of a log's options.
const (
	minLogSize  = 1000
	maxLogSize  = 1 << 40
	maxLogFiles = 1000
)

// checkLog refuses drivers and options of logs that there are not.
func checkLog(s Spec) error {
	if s.LogDriver != "" && s.LogDriver != LogFiles && s.LogDriver != LogNone {
		return invalid("log-driver", s.LogDriver, "no such driver", "use "+LogFiles+" or "+LogNone)
	}
	for _, name := range slices.Sorted(maps.Keys(s.LogOptions)) {
		value := s.LogOptions[name]
		option := name + "=" + value
		switch name {
		case "max-size":
			if n, err := units.FromHumanSize(value); err != nil || n < minLogSize || n > maxLogSize {
				return invalid("log-opt", option, "not a size, or out of range", "give 1k to 1024g")
			}
		case "max-file":
			if n, err := strconv.Atoi(value); err != nil || n < 1 || n > maxLogFiles {
				return invalid("log-opt", option, "not a number of files", fmt.Sprintf("give 1 to %d", maxLogFiles))
			}
		case "compress":
			if _, err := strconv.ParseBool(value); err != nil {
				return invalid("log-opt", option, "neither true nor false", "write one of these")
			}
		case "mode":
			if value != "blocking" && value != "non-blocking" {
				return invalid("log-opt", option, "unknown mode", "use blocking or non-blocking")
			}
		case "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag": // for readers of the record
		default:
			return invalid("log-opt", option, "no such option", "use max-size, max-file, labels, env or tag")
		}
	}
	return nil
}

func logWarnings(s Spec) []string {
	if s.LogDriver == LogNone {
		return nil
	}
	var out []string
	if on, err := strconv.ParseBool(s.LogOptions["compress"]); err == nil && on {
		out = append(out, "log-opt compress: old files of the log are not compressed")
	}
	if s.LogOptions["mode"] == "non-blocking" {
		out = append(out, "log-opt mode=non-blocking: output waits for the disk all the same")
	}
	return out
}

// logFile is the log of a container, at a path. checkLog has seen the options.
func logFile(s Spec, path string) shim.LogFile {
	if s.LogDriver == LogNone {
		return shim.LogFile{}
	}
	l := shim.LogFile{Path: path}
	if n, err := units.FromHumanSize(s.LogOptions["max-size"]); err == nil {
		l.MaxSize = n
	}
	if n, err := strconv.Atoi(s.LogOptions["max-file"]); err == nil {
		l.Files = n
	}
	return l
}
