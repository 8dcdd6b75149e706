package remote

// Round is one look of Run at what is left to do.
var Round = (*Caller).round
