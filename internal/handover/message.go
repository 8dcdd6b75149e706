package handover

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/internal/descriptor"
)

// ControlFD is the descriptor of the connection to netd that a holder is started with.
const ControlFD = 3

// MaxNote bounds what is known of an item, in bytes.
const MaxNote = descriptor.MaxMessage - 64<<10

// maxItems bounds what a holder may say that it has.
const maxItems = 1 << 14

// Item is what belongs together: open files, and what the next process has to know of them.
type Item struct {
	Key   string                  `json:"key"`
	Note  json.RawMessage         `json:"note,omitempty"`
	Files []descriptor.Descriptor `json:"-"`
}

// request is what netd asks. One field is set.
type request struct {
	Put  *Item  `json:"put,omitempty"` // with files: from now on; without: another note of those that there are
	Drop string `json:"drop,omitempty"`
	List bool   `json:"list,omitempty"` // an answer for each item, with its files, then one that says Done
	Quit bool   `json:"quit,omitempty"` // end, after the answer
}

type answer struct {
	Error string `json:"error,omitempty"`
	Item  *Item  `json:"item,omitempty"` // with its files
	Done  bool   `json:"done,omitempty"`
}

// receive reads an answer. The files that come with it are its item's.
func receive(c *descriptor.Conn) (a answer, err error) {
	files, err := c.Receive(&a)
	if err != nil {
		return a, err
	}
	switch {
	case a.Error != "":
		err = fmt.Errorf("it says %.200q", a.Error)
	case a.Item != nil:
		a.Item.Files = files
		return a, nil
	}
	descriptor.Close(files)
	return a, err
}

// finished reads an answer that is to say that something was done.
func finished(c *descriptor.Conn) error {
	a, err := receive(c)
	if err == nil && a.Item != nil {
		descriptor.Close(a.Item.Files)
	}
	if err == nil && !a.Done {
		err = errors.New("its answer is to another question")
	}
	return err
}
