package volume

import (
	"fmt"

	"github.com/vethloom/vethloom/cnm"
)

// NotFoundError says that no volume has the name. It is a [cnm.ErrNotFound].
type NotFoundError struct {
	Name string
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("no such volume: %s: list what there is with 'net volume ls'", e.Name)
}

// Is makes the error match [cnm.ErrNotFound].
func (e *NotFoundError) Is(target error) bool { return target == cnm.ErrNotFound }
