//! Cases in one line each, on every engine. `script` says how they are read.

use super::on_every_engine;

on_every_engine! {
    super::super::script::run;
    // rows
    a_put_row_is_there
        "a=one -> 1; get a = one@1";
    a_row_that_was_not_put_is_not_there
        "a=one -> 1; get b = none; get () = none";
    a_row_is_not_found_by_the_beginning_of_its_key
        "abc=one -> 1; get ab = none; get a = none";
    a_row_is_not_found_by_a_longer_key
        "a=one -> 1; get ab = none; get a^ = none";
    keys_differ_in_case
        "a=one A=two -> 1; get a = one@1; get A = two@1";
    an_empty_key_is_a_key
        "()=one a=two -> 1; get () = one@1; scan .. = () a; -() -> 2; scan .. = a";
    a_key_of_zero_bytes_is_not_the_empty_one
        "^=one -> 1; get () = none; get ^ = one@1; get ^^ = none";
    a_key_of_highest_bytes_is_kept
        "~~=one -> 1; get ~~ = one@1; get ~ = none";
    an_empty_value_is_a_row
        "a= -> 1; get a = @1; scan .. = a";
    a_value_of_one_page_is_kept
        "a=*4096 -> 1; get a = *4096@1";
    a_value_of_many_pages_is_kept
        "a=*300000 -> 1; reopen; get a = *300000@1";
    a_value_can_shrink
        "a=*9000 -> 1; a=b -> 2; get a = b@2";
    a_value_can_grow
        "a=b -> 1; a=*9000 -> 2; get a = *9000@2";
    a_row_put_again_with_the_same_value_has_the_new_version
        "a=b -> 1; a=b -> 2; get a = b@2";
    a_row_that_is_not_touched_keeps_its_version
        "a=b c=d -> 1; a=e -> 2; get c = d@1";
    the_last_put_of_a_set_wins
        "a=1 a=2 a=3 -> 1; get a = 3@1; scan .. = a";
    a_put_after_a_delete_stands
        "a=1 -> 1; -a a=2 -> 2; get a = 2@2";
    a_delete_after_a_put_stands
        "a=1 -a -> 1; get a = none";
    a_delete_takes_one_row
        "a=1 aa=2 b=3 -> 1; -a -> 2; scan .. = aa b";
    a_deleted_row_can_be_put_again
        "a=1 -> 1; -a -> 2; a=3 -> 3; get a = 3@3";
    deleting_what_is_not_there_takes_a_number
        "-a -> 1; last = 1; get a = none";
    an_empty_set_takes_a_number
        "_ -> 1; _ -> 2; last = 2";
    a_set_writes_many_tables
        "meta/a=1 resources/a=2 a=3 -> 1; get meta/a = 1@1; get resources/a = 2@1; get a = 3@1";
    a_delete_keeps_to_its_table
        "meta/a=1 a=2 -> 1; -a -> 2; get meta/a = 1@1; get a = none";
    many_rows_of_one_set_are_all_there
        "a=1 b=1 c=1 d=1 e=1 f=1 g=1 h=1 -> 1; scan .. = a b c d e f g h";
    // rows sealed anew
    a_row_sealed_anew_keeps_its_version
        "a=one b=1 -> 1; a:=*300 -> 2; get a = *300@1; get b = 1@1; last = 2; reopen; get a = *300@1";
    what_is_not_there_is_not_sealed_anew
        "a=1 -> 1; b:=2 meta/a:=2 -> 2; scan .. = a; get b = none; get meta/a = none";
    a_row_of_the_same_set_is_sealed_anew
        "a=1 a:=2 -> 1; get a = 2@1; a=3 a:=4 -> 2; get a = 4@2; -a a:=5 -> 3; get a = none";
    a_version_holds_after_its_row_was_sealed_anew
        "a=1 -> 1; a:=2 -> 2; ?a@2 _ -> !findings; ?a@1 a=3 -> 3; get a = 3@3";
    a_snapshot_shows_a_row_as_it_was_before_it_was_sealed_anew
        "a=1 -> 1; hold; a:=2 -> 2; held get a = 1@1; get a = 2@1";
    a_row_sealed_anew_is_not_in_the_feed
        "a=1 #a -> 1; a:=2 -> 2; feed 0 = 1#a";
    a_refused_set_seals_nothing_anew
        "a=1 -> 1; ?a a:=2 -> !findings; get a = 1@1; a:=2 -> error; get a = 1@1";
    // commit numbers
    a_new_engine_has_number_zero
        "last = 0";
    numbers_go_up_by_one
        "a=1 -> 1; b=1 -> 2; c=1 -> 3; last = 3";
    the_sets_of_a_group_are_numbered_in_order
        "a=1 | b=1 | c=1 -> 1 2 3; last = 3; get b = 1@2";
    a_refused_set_takes_no_number_in_a_group
        "a=1 | ?a b=1 | c=1 -> 1 !findings 2; last = 2";
    a_group_of_refused_sets_takes_no_number
        "a=1 -> 1; ?a _ | $m?9 _ -> !findings !0; last = 1; b=1 -> 2";
    a_failed_group_gives_its_numbers_back
        "a=1 | b=1 -> error; last = 0; c=1 -> 1";
    numbers_go_on_after_reopening
        "a=1 -> 1; reopen; last = 1; b=1 -> 2";
    a_failed_group_gives_its_numbers_back_over_a_reopening
        "a=1 -> 1; b=1 -> error; reopen; last = 1; b=1 -> 2";
    // marks by key, and the format
    marks_come_in_the_order_of_their_keys
        "$b:2 $():1 $~:3 -> 1; marks = ():1 b:2 ~:3; marks limit 2 = ():1 b:2";
    marks_behind_a_key_are_those_after_it
        "$a:1 $ab:2 $b:3 -> 1; marks behind a = ab:2 b:3; marks behind () = a:1 ab:2 b:3; marks behind b =";
    a_mark_that_was_set_to_zero_is_one
        "$a:0 -> 1; marks = a:0; ?x $b:1 | x=1 $c:1 -> 2 3; marks = a:0 b:1 c:1";
    marks_of_a_refused_or_failed_set_are_none
        "$a?7 $b:1 -> !0; $c:1 -> error; marks =";
    a_new_holder_has_the_format_of_this_program
        "format = 1; a=1 -> 1; reopen; format = 1";
    a_format_is_set_with_its_rows
        "a=1 format:0 -> 1; format = 0; reopen; format = 0; a=2 -> 2; format = 0; format:1 -> 3; format = 1";
    a_format_of_a_refused_or_failed_set_is_not_set
        "?a@1 format:0 -> !findings; format:0 -> error; format = 1";
    // conditions
    absent_holds_where_nothing_is
        "?a a=1 -> 1; get a = 1@1";
    absent_refuses_what_is_there
        "a=1 -> 1; ?a a=2 -> !findings; get a = 1@1";
    absent_holds_after_a_delete
        "a=1 -> 1; -a -> 2; ?a a=3 -> 3";
    absent_asks_the_table_that_it_names
        "meta/a=1 -> 1; ?a a=2 -> 2; ?meta/a _ -> !meta";
    absent_asks_for_the_whole_key
        "ab=1 -> 1; ?a a=2 -> 2";
    absent_of_an_empty_value_is_refused
        "a= -> 1; ?a _ -> !findings";
    absent_can_ask_for_the_empty_key
        "?() _ -> 1; ()=1 -> 2; ?() _ -> !findings";
    a_version_holds_where_it_was_written
        "a=1 -> 1; ?a@1 a=2 -> 2; get a = 2@2";
    a_version_refuses_after_a_later_put
        "a=1 -> 1; a=2 -> 2; ?a@1 a=3 -> !findings; ?a@2 a=3 -> 3";
    a_version_refuses_a_later_one
        "a=1 -> 1; ?a@2 a=3 -> !findings";
    a_version_refuses_a_row_that_is_gone
        "a=1 -> 1; -a -> 2; ?a@1 a=3 -> !findings";
    a_version_refuses_a_row_that_never_was
        "?a@0 _ -> !findings; ?a@1 _ -> !findings";
    a_version_is_of_the_row_and_not_of_the_engine
        "a=1 -> 1; b=1 -> 2; ?a@1 a=2 -> 3; ?b@3 _ -> !findings";
    a_version_holds_over_a_reopening
        "a=1 -> 1; b=1 -> 2; reopen; ?a@1 ?b@2 _ -> 3";
    a_version_is_that_of_the_set_within_a_group
        "a=1 | ?a@1 a=2 | ?a@1 a=3 | ?a@2 a=4 -> 1 2 !findings 3; get a = 4@3";
    a_version_of_another_table_is_refused
        "a=1 -> 1; ?meta/a@1 _ -> !meta";
    every_condition_must_hold
        "a=1 -> 1; ?b ?a@1 ?c c=1 -> 2; ?b ?a@9 d=1 -> !findings; get d = none";
    the_first_condition_that_fails_is_named
        "a=1 meta/a=1 -> 1; ?meta/a ?a _ -> !meta; ?a ?meta/a _ -> !findings";
    a_condition_is_asked_before_the_writes_of_its_set
        "?a a=1 -a -> 1; ?a a=1 -> 2; ?a@2 -a -> 3";
    a_refused_set_writes_nothing
        "a=1 -> 1; ?a b=1 -a meta/c=1 -> !findings; scan .. = a; get meta/c = none";
    a_refused_set_sets_no_mark
        "a=1 -> 1; ?a $m:5 -> !findings; mark m = 0";
    a_refused_set_notes_nothing
        "a=1 #a -> 1; ?a #b forget:9 -> !findings; feed 0 = 1#a";
    a_condition_sees_the_sets_before_it_in_its_group
        "?a a=1 | ?a a=2 -> 1 !findings; get a = 1@1";
    a_condition_does_not_see_a_refused_set
        "a=1 | ?a b=1 | ?b b=2 -> 1 !findings 2; get b = 2@2";
    a_condition_does_not_see_a_failed_group
        "a=1 -> error; ?a a=2 -> 1";
    a_condition_sees_a_deleted_range
        "a=1 b=1 -> 1; -a.. | ?a ?b c=1 -> 2 3; scan .. = c";
    a_condition_sees_only_its_own_set_too
        "?a ?b a=1 b=1 -> 1; ?a ?c c=1 -> !findings; get c = none";
    conditions_may_repeat
        "?a ?a a=1 -> 1; ?a@1 ?a@1 a=2 -> 2";
    // marks
    a_mark_begins_at_zero
        "mark m = 0; mark other = 0";
    a_mark_is_set
        "$m:7 -> 1; mark m = 7; mark n = 0";
    a_mark_can_go_down
        "$m:7 -> 1; $m:3 -> 2; mark m = 3";
    a_mark_takes_every_number
        "$m:max -> 1; mark m = max; $m?max $m:0 -> 2; mark m = 0";
    a_mark_of_zero_is_as_if_never_set
        "$m:0 -> 1; $m?0 $m:1 -> 2; mark m = 1";
    a_mark_condition_says_where_it_stands
        "$m:7 -> 1; $m?6 $m:8 -> !7; mark m = 7";
    a_mark_that_was_never_set_stands_at_zero
        "$m?1 _ -> !0; $m?0 $m:1 -> 1";
    a_mark_is_moved_step_by_step
        "$m?0 $m:1 -> 1; $m?1 $m:2 -> 2; $m?1 $m:2 -> !2; mark m = 2";
    a_mark_is_moved_within_a_group
        "$m?0 $m:1 | $m?1 $m:2 | $m?1 $m:9 -> 1 2 !2; mark m = 2";
    the_last_mark_of_a_set_wins
        "$m:1 $m:2 -> 1; mark m = 2";
    marks_do_not_share_keys_with_rows
        "meta/m=1 m=1 $m:5 -> 1; -m -meta/m -> 2; mark m = 5";
    marks_are_told_apart_by_their_whole_key
        "$m:1 $mm:2 $^:3 -> 1; mark m = 1; mark mm = 2; mark ^ = 3";
    marks_outlive_a_reopening
        "$m:5 $n:6 -> 1; reopen; mark m = 5; mark n = 6; $m?5 _ -> 2";
    a_mark_is_not_set_by_a_failed_group
        "$m:5 -> error; mark m = 0; $m?0 _ -> 1";
    marks_and_rows_are_asked_together
        "a=1 $m:1 -> 1; ?a@1 $m?2 _ -> !1; ?a@2 $m?1 _ -> !findings; ?a@1 $m?1 _ -> 2";
    // groups
    a_group_is_seen_whole
        "a=1 | b=2 | -a -> 1 2 3; get a = none; get b = 2@2";
    a_later_set_of_a_group_wins
        "a=1 | a=2 -> 1 2; get a = 2@2";
    a_failed_group_leaves_rows_alone
        "a=1 -> 1; a=2 b=3 -a -> error; get a = 1@1; get b = none";
    a_failed_group_leaves_ranges_alone
        "a=1 b=1 -> 1; -a.. -> error; scan .. = a b";
    a_failed_group_leaves_the_feed_alone
        "#a -> 1; #b forget:1 -> error; feed 0 = 1#a";
    a_failed_group_leaves_nothing_after_a_reopening
        "a=1 -> 1; a=2 b=2 $m:2 #b -> error; reopen; scan .. = a; get a = 1@1; mark m = 0; feed 0 =";
    groups_after_a_failed_one_are_stored
        "a=1 -> error; b=1 -> 1; c=1 -> error; d=1 -> 2; scan .. = b d";
    a_large_group_is_whole
        "a=*100000 | b=*100000 | c=*100000 | -b -> 1 2 3 4; reopen; get a = *100000@1; get b = none; get c = *100000@3";
    // snapshots
    a_held_snapshot_keeps_rows_that_change
        "a=1 -> 1; hold; a=2 -> 2; held get a = 1@1; get a = 2@2";
    a_held_snapshot_keeps_rows_that_go
        "a=1 b=1 -> 1; hold; -a.. -> 2; held scan .. = a b; scan .. =";
    a_held_snapshot_does_not_see_what_comes
        "hold; a=1 -> 1; held get a = none; held scan .. =; held last = 0";
    a_held_snapshot_keeps_its_number
        "a=1 -> 1; hold; b=1 -> 2; c=1 -> 3; held last = 1; last = 3";
    a_held_snapshot_keeps_its_marks
        "$m:1 -> 1; hold; $m:2 -> 2; held mark m = 1; mark m = 2";
    a_held_snapshot_keeps_its_feed
        "#a -> 1; hold; #b forget:1 -> 2; held feed 0 = 1#a; feed 0 = 2#b";
    a_held_snapshot_survives_many_commits
        "a=*20000 -> 1; hold; a=*1 -> 2; b=*20000 -> 3; -b -> 4; c=*20000 -> 5; held get a = *20000@1; held scan .. = a";
    a_held_snapshot_is_not_changed_by_a_failed_group
        "a=1 -> 1; hold; a=2 -> error; held get a = 1@1; a=3 -> 2; held get a = 1@1";
    a_held_snapshot_can_be_read_in_pieces
        "a=1 b=1 c=1 -> 1; hold; -b -> 2; held scan .. rows 1 = a; held scan b.. rows 1 = b; held scan c.. = c";
    a_newer_snapshot_takes_the_place_of_the_held_one
        "a=1 -> 1; hold; a=2 -> 2; hold; held get a = 2@2";
    // scans
    a_scan_of_nothing_is_empty
        "scan .. =; back .. =; scan meta/.. =";
    a_scan_is_in_byte_order
        "b=1 a=1 B=1 ^=1 ~=1 aa=1 -> 1; scan .. = ^ B a aa b ~";
    a_backward_scan_is_in_reverse_byte_order
        "b=1 a=1 B=1 ^=1 ~=1 aa=1 -> 1; back .. = ~ b aa a B ^";
    a_shorter_key_stands_before_its_extension
        "a^=1 a=1 a~=1 b=1 -> 1; scan .. = a a^ a~ b";
    a_scan_begins_at_its_lower_end
        "a=1 b=1 c=1 -> 1; scan b.. = b c; back b.. = c b";
    a_scan_begins_behind_a_missing_lower_end
        "a=1 c=1 -> 1; scan b.. = c; back b.. = c";
    a_scan_ends_before_its_upper_end
        "a=1 b=1 c=1 -> 1; scan ..c = a b; back ..c = b a";
    a_scan_ends_before_a_missing_upper_end
        "a=1 c=1 -> 1; scan ..b = a; back ..b = a";
    a_scan_between_two_keys_holds_the_lower_only
        "a=1 b=1 c=1 d=1 -> 1; scan b..d = b c; back b..d = c b";
    a_scan_between_neighbours_is_empty
        "a=1 c=1 -> 1; scan b..c =; scan ab..b =";
    a_scan_of_an_inverted_range_is_empty
        "a=1 b=1 -> 1; scan b..a =; back b..a =; scan a..a =";
    a_scan_of_a_prefix_is_its_keys
        "a=1 ab=1 abc=1 ac=1 b=1 -> 1; scan ab* = ab abc; back ab* = abc ab; scan a* = a ab abc ac";
    a_scan_of_a_prefix_of_highest_bytes_runs_to_the_end
        "a=1 ~=1 ~a=1 ~~=1 -> 1; scan ~* = ~ ~a ~~; scan ~~* = ~~; back ~* = ~~ ~a ~";
    a_scan_of_a_missing_prefix_is_empty
        "a=1 c=1 -> 1; scan b* =; scan aa* =";
    a_scan_keeps_to_its_table
        "meta/a=1 a=1 resources/b=1 -> 1; scan meta/.. = a; scan .. = a; scan resources/.. = b; scan blocks/.. =";
    a_page_ends_after_its_rows
        "a=1 b=1 c=1 -> 1; scan .. rows 1 = a; scan .. rows 2 = a b; scan .. rows 3 = a b c; scan .. rows 9 = a b c";
    a_backward_page_ends_after_its_rows
        "a=1 b=1 c=1 -> 1; back .. rows 1 = c; back .. rows 2 = c b; back b.. rows 1 = c; back ..c rows 1 = b";
    a_page_of_no_rows_is_empty
        "a=1 -> 1; scan .. rows 0 =; back .. rows 0 =";
    a_page_ends_at_its_bytes
        "a=*10 b=*10 c=*10 -> 1; scan .. bytes 11 = a; scan .. bytes 12 = a b; scan .. bytes 22 = a b; scan .. bytes 23 = a b c";
    a_backward_page_ends_at_its_bytes
        "a=*10 b=*10 c=*10 -> 1; back .. bytes 11 = c; back .. bytes 12 = c b";
    a_page_holds_one_row_however_large
        "a=*5000 b=1 -> 1; scan .. bytes 0 = a; scan .. bytes 1 = a; back .. bytes 1 = b; back ..b bytes 1 = a";
    a_page_ends_at_whichever_bound_comes_first
        "a=*10 b=*10 c=*10 -> 1; scan .. rows 2 bytes 999 = a b; scan .. rows 9 bytes 5 = a";
    keys_count_for_the_bytes_of_a_page
        "aaaaaaaaaa= bbbbbbbbbb= c= -> 1; scan .. bytes 10 = aaaaaaaaaa; scan .. bytes 11 = aaaaaaaaaa bbbbbbbbbb";
    a_scan_sees_rows_put_again_once
        "a=1 b=1 -> 1; a=2 -> 2; -b -> 3; b=3 -> 4; scan .. = a b";
    a_scan_after_a_reopening_is_the_same
        "c=1 a=1 b=1 -> 1; -b -> 2; reopen; scan .. = a c; back .. = c a";
    // ranges
    a_range_is_deleted
        "a=1 b=1 c=1 d=1 -> 1; -b..d -> 2; scan .. = a d";
    a_range_without_end_is_deleted_to_the_end
        "a=1 b=1 ~=1 -> 1; -b.. -> 2; scan .. = a";
    a_range_without_beginning_is_deleted_from_the_first
        "^=1 a=1 b=1 -> 1; -..b -> 2; scan .. = b";
    a_whole_table_is_deleted
        "a=1 b=1 meta/a=1 -> 1; -.. -> 2; scan .. =; scan meta/.. = a";
    a_prefix_is_deleted
        "a=1 ab=1 ac=1 b=1 -> 1; -a* -> 2; scan .. = b";
    a_prefix_of_highest_bytes_is_deleted
        "a=1 ~=1 ~~=1 -> 1; -~* -> 2; scan .. = a";
    an_empty_range_deletes_nothing
        "a=1 b=1 -> 1; -b..b -b..a -> 2; scan .. = a b; last = 2";
    a_range_over_nothing_deletes_nothing
        "a=1 d=1 -> 1; -b..c -> 2; scan .. = a d";
    a_range_of_an_empty_table_is_deleted
        "-.. -meta/a.. -> 1; last = 1";
    a_put_after_a_range_stands
        "a=1 -> 1; -.. a=2 b=2 -> 2; scan .. = a b; get a = 2@2";
    a_range_after_a_put_takes_it
        "a=1 -a.. b=1 -> 1; scan .. = b";
    a_range_keeps_to_its_table_and_bounds
        "meta/b=1 a=1 b=1 c=1 -> 1; -b..c -> 2; scan .. = a c; get meta/b = 1@1";
    rows_of_a_deleted_range_can_be_put_again
        "a=1 b=1 -> 1; -.. -> 2; b=3 -> 3; scan .. = b; get b = 3@3";
    a_deleted_range_stays_deleted_after_a_reopening
        "a=1 b=*9000 c=1 -> 1; -a..c -> 2; reopen; scan .. = c; get b = none";
    two_ranges_of_a_set_are_both_deleted
        "a=1 b=1 c=1 d=1 -> 1; -..b -d.. -> 2; scan .. = b c";
    // the feed of changes
    the_feed_of_a_new_engine_is_empty
        "feed 0 =; feed 9 =";
    a_note_is_in_the_feed_under_its_number
        "a=1 -> 1; #a -> 2; feed 0 = 2#a";
    notes_of_a_set_keep_their_order
        "#b #a #c -> 1; feed 0 = 1#b 1#a 1#c";
    notes_may_repeat
        "#a #a -> 1; #a -> 2; feed 0 = 1#a 1#a 2#a";
    a_note_names_its_table
        "#meta/a #a #resources/^ -> 1; feed 0 = 1#meta/a 1#a 1#resources/^";
    a_note_needs_no_row
        "#gone -> 1; get gone = none; feed 0 = 1#gone";
    a_note_can_name_the_empty_key
        "#() -> 1; feed 0 = 1#()";
    the_feed_begins_after_the_given_number
        "#a -> 1; #b -> 2; #c -> 3; feed 1 = 2#b 3#c; feed 2 = 3#c; feed 3 =; feed max =";
    the_feed_ends_at_its_limit
        "#a #b #c -> 1; #d -> 2; feed 0 limit 0 =; feed 0 limit 2 = 1#a 1#b; feed 0 limit 4 = 1#a 1#b 1#c 2#d";
    the_feed_of_a_group_is_numbered_by_its_sets
        "#a | #b | #c -> 1 2 3; feed 1 = 2#b 3#c";
    a_refused_set_is_not_in_the_feed
        "a=1 #a | ?a #b | #c -> 1 !findings 2; feed 0 = 1#a 2#c";
    the_feed_is_forgotten_up_to_a_number
        "#a -> 1; #b -> 2; #c forget:2 -> 3; feed 0 = 3#c";
    forgetting_nothing_keeps_the_feed
        "#a -> 1; forget:0 -> 2; feed 0 = 1#a";
    forgetting_twice_is_forgetting_once
        "#a -> 1; forget:1 -> 2; forget:1 -> 3; feed 0 =";
    a_set_that_forgets_ahead_forgets_its_own_notes
        "#a -> 1; #b forget:2 -> 2; feed 0 =; #c -> 3; feed 0 = 3#c";
    everything_can_be_forgotten
        "#a -> 1; #b -> 2; forget:max -> 3; feed 0 =; #c -> 4; feed 0 = 4#c";
    the_feed_outlives_a_reopening
        "#a #b -> 1; #c -> 2; reopen; feed 0 = 1#a 1#b 2#c; forget:1 -> 3; reopen; feed 0 = 2#c";
    the_feed_is_apart_from_rows
        "a=1 #a -> 1; -.. -> 2; feed 0 = 1#a";
}
