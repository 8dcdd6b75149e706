package registry

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/BurntSushi/toml"
)

// maxFile bounds each file of settings, certificates or keys, in bytes.
const maxFile = 1 << 20

// readFile reads a regular file to its limit. Links are followed, as people link certificates; what is no file (a pipe
// would wait for ever) is refused. Errors name the file.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, settingError(path, "", info.Mode().String(), "is not a regular file",
			"put a file there, or remove it")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, settingError(path, "", "", fmt.Sprintf("has more than %d bytes", maxFile), "shorten it")
	}
	return data, nil
}

// isMissing reports whether there is no such file.
func isMissing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// decode reads TOML. Keys that are not known stay unread: these files belong to other engines, whose newer versions
// have more of them.
func decode(file string, data []byte, into any) (toml.MetaData, error) {
	meta, err := toml.Decode(string(data), into)
	if err == nil {
		return meta, nil
	}
	where, reason := file, err.Error()
	var parse toml.ParseError
	if errors.As(err, &parse) {
		where = fmt.Sprintf("%s: line %d", file, parse.Position.Line)
		reason = parse.Message
		if parse.LastKey != "" {
			reason = fmt.Sprintf("at %s: %s", parse.LastKey, reason)
		}
	}
	return meta, settingError(where, "", "", "is not right: "+said(strings.TrimPrefix(reason, "toml: ")),
		"correct it, or move the file away")
}
