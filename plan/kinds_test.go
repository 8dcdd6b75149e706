package plan

import (
	"reflect"
	"testing"
)

// Every field of a state is in the table of kinds, under the name that its objects go by.
func TestEveryFieldOfAStateHasAKind(t *testing.T) {
	var s State
	fill(t, reflect.ValueOf(&s).Elem())
	seen := map[string]int{}
	for o := range s.Objects() {
		seen[KindOf(o)]++
	}
	for _, k := range kinds() {
		if seen[k.name] != 1 {
			t.Errorf("kind %q: %d objects of a state that has one of each", k.name, seen[k.name])
		}
		delete(seen, k.name)
	}
	if len(seen) > 0 {
		t.Errorf("kinds of objects without a line in the table: %v", seen)
	}
	if u := Union(s, s); !reflect.DeepEqual(u, s) {
		t.Errorf("the union of a state with itself is another:\n%+v\n%+v", u, s)
	}
}

// fill gives every slice of a state one object, and fails for a type that is no object.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			if _, ok := f.Index(0).Interface().(Object); !ok {
				t.Errorf("%s holds %s, which is no object", v.Type().Field(i).Name, f.Type().Elem())
			}
		case reflect.Struct:
			fill(t, f)
		default:
			t.Errorf("%s is no slice of objects", v.Type().Field(i).Name)
		}
	}
}
